"""What the terminal shows: the plan, the search under way, and what it found.

A command imports the module it needs, and no other: the libraries behind some take seconds.
"""
