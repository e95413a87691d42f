"""Faults at random moments in every command that makes a run: nothing is lost, nothing ends in a traceback.

    make test-faults
    python -m tests.faults --count 50 --seed 3
    python -m tests.faults --only "search killed,train disk"

Each fault has a command run by itself for comparison (once), a command that meets the fault, and the same command with
``--resume auto`` behind it. It is held where every process ended with a status of ours and without a traceback, where
the second command came to the end, and where its product is that of the undisturbed run, bit for bit (a profile is
measured, so there only what was measured before must be kept).
"""
