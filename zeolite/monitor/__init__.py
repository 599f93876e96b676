"""What a server tells people and programs about itself, over HTTP.

    httpserver.py  requests and answers     pages.py       what can be asked for
    report.py      the numbers              prometheus.py  the same as metrics
    page.html      what a browser shows

Whoever reaches its address may look.  Nothing can be changed from there.
"""
