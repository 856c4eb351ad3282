"""Durable, typed state for fleets of agents, on a plane that was provisioned before.

The library creates no object: names, pools and limits come from the contract of the plane, whose form
``contract.schema.json`` defines.
"""

__version__ = "0.1.0"
