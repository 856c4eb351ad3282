"""The pure core: two planes in, an ordered Plan out. It knows no kind; kinds arrive as a mapping of names."""
