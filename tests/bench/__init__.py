"""How fast Zeolite is, next to ZEO: `python -m tests.bench --help`.

    __main__.py   the command line          rounds.py     measuring in turns
    workloads.py  what is measured          table.py      medians and ratios as text
    setups.py     what that needs           sizes.py      and how much of it
    systems.py    what is compared          databases.py  the files that are served
    processes.py  starting and stopping     worker.py     a client process; jobs/ is what it does
    shootout.py   zodbshootout's rows       growing.py    more servers than one: a table of its own

Nothing here asserts a speed: machines differ.
"""
