# A package, so that pytest keeps this folder off sys.path, where its tools.py would hide the folder tools/.
