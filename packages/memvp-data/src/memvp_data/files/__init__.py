"""Files: written whole or not at all, on a disk or in an object store, hashed; spreadsheets without a library."""
