"""Which official files and images a recipe names, and how large they are.

sources.py official files to samples tables
sizes.py   how many samples and tokens, from what is published
"""
