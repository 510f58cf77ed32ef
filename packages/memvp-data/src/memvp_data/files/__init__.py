"""Files: written whole or not at all, on a disk or in an object store, hashed; spreadsheets without a library.

atomic: files that appear whole or not at all
hashing: SHA-256 of files and folders
storage: folders on a disk or in an object store
spreadsheet: a table as an .xlsx workbook
"""
