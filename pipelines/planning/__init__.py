"""What a recipe would take, as a table: memory, time, bytes; behind plan.py.

plan.py  every stage in every way of showing images
table.py a plan that fits a terminal
"""
