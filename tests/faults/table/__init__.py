"""The failure table: each fault, provoked for real in each place, and what was said of it.

``faults.py`` is the list of faults. A *place* (``local.py``, ``tcp.py``, ``ssh.py``, …) says where
workers run and lends the hands that break things there; a fault happens in every place that has
the hand for it. ``runner.py`` runs a session into a fault, ``peers`` does the same with what people
use without holdfast, and ``pages.py`` writes down what was measured.

    python -m tests.faults.table            measure everything, and write it down
    python -m tests.faults.table --help     a part of it
"""
