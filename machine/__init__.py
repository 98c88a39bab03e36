"""Facts about the machine: its Python, threads, memory, disk, CPU. Importing it ends a Python without the packages.

It imports nothing of the project, and each script and package imports it first.
"""

from machine.interrupt import end_in_one_line

end_in_one_line()

from machine.interpreter import require  # noqa: E402

require()
