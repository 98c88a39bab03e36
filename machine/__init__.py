"""What the machine gives: its Python, threads, memory, disk. Importing it ends a Python that lacks the packages.

It imports nothing of the project, and whatever can be started imports it before all else.
"""

from machine.interpreter import require

require()
