"""What a person at the terminal sees: progress, one sentence for an error, and never a secret.

errors: a sentence for what a user can mend, a traceback for our bugs
progress: one bar per step
warning_lines: our warnings in the terminal's words
redaction: secrets out of whatever leaves the process
"""
