"""Exports and reports: what tasks gave and took, as tables and as a page, for those who look at it elsewhere."""
