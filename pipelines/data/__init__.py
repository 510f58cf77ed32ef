"""Which official files and images a recipe names, and how large they are.

sources: official files to samples tables
sizes: how many samples and tokens, from what is published
"""
