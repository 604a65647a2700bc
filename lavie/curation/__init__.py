"""From raw films to a captioned, filtered, deduplicated set in shards: `lavie curate` (paper sections 5.1 and 5.2).

Films are grouped into units (`films`). A stage (`stage`) makes one table of columns for each unit (`table`, `unit`), an
engine (`engine`) says where units are worked on, and `run` finds what is out of date and has it done.
"""
