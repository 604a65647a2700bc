"""The human study of the paper (Tables 3 and 4): its plan, and what the raters' answers say."""
