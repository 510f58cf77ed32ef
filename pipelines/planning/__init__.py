"""What a recipe would take, as a table: memory, time, bytes; behind plan.py.

plan: every stage in every way of showing images
table: a plan that fits a terminal
"""
