"""Reports of a finished job: report.json, Markdown, the HTML page, curves and charts."""
