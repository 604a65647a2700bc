"""The ablations of the paper on rendered clips: arms as data, one runner, an analysis with intervals, a page."""
