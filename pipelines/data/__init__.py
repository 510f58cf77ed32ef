"""Which official files and images a recipe names, and how large they are."""
