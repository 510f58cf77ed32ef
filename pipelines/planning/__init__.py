"""What a recipe would take, as a table: memory, time, bytes; behind plan.py."""
