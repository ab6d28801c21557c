"""Figures, each beside its limit in the same run: `python -m tests.benchmarks`, or `make bench`.

    __main__   picks benchmarks, runs them, prints the table, writes docs/benchmarks.md
    catalogue  which benchmarks there are, in which order
    figures    a figure, its limit and its target
    site       where a run measures: databases on disk, servers, prepared logs
    report, plot, machine                      how it is shown, and on what it was measured
    load, client, serving, serve_with_noop     HTTP: wrk, a small client, the server under test
    open_pages, onlookers                      the dashboard: in a browser, and many who look
    bare, history, filling, growth, replay, mixed_batch     what to measure on, and against
    the rest                                   one benchmark each

A benchmark is a module with `run(site)` that yields figures; its docstring goes into the report. A
timing is never a test's verdict: nothing here is collected by pytest.
"""
