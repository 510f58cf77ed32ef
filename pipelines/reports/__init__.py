"""Reports of a finished job: report.json, Markdown, the HTML page, curves and charts.

results: what was answered, and how a kind of job reports it
instruct: rows and columns of instruction tuning
benchmarks: rows and columns of benchmarks
written: report.json, report.md and the printed table
page_content: what stands on the page
page: the page as HTML
html_blocks: its blocks
drawn_page: drawn again only if something changed
curves: pictures of training
task_chart: a chart of scores by task
examples: a few questions with all that was answered
"""
