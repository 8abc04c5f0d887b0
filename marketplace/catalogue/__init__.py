"""Model files that a site's configuration lists: fetched once, checked, and how far that is."""
