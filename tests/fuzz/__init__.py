"""Mutated files for every reader of the project: each ends in its network, or in one typed error.

    python -m tests.fuzz --seconds 600
    python -m tests.fuzz --inputs 200000 --readers png,pth --seed 7
    python -m tests.fuzz --show metrics:1234

``mutators.py`` changes bytes, JSON, lines and tables of text; ``formats.py`` pickles, zips, images, HDF5 and
safetensors, whose hashes and lengths it puts right again, so that a change gets past the door. ``readers.py`` has, for
each reader, the files it begins with and what a command does with one. ``running.py`` reads in a child process, tells
what came of it, and survives it. ``corpus/`` holds what was once found, and test_fuzz.py reads all of it.
"""
