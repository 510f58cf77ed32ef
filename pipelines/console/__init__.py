"""What a person at the terminal sees: progress, one sentence for an error, and never a secret.

errors.py    a sentence for what a user can mend, a traceback for our bugs
progress.py  one bar per step
redaction.py secrets out of whatever leaves the process
"""
