"""Reports of a finished job: report.json, Markdown, the HTML page, curves and charts.

results.py      what was answered, and how a kind of job reports it
instruct.py     rows and columns of instruction tuning
benchmarks.py   rows and columns of benchmarks
written.py      report.json, report.md and the printed table
page_content.py what stands on the page
page.py         the page as HTML
html_blocks.py  its blocks
drawn_page.py   drawn again only if something changed
curves.py       pictures of training
task_chart.py   a chart of scores by task
examples.py     a few questions with all that was answered
"""
