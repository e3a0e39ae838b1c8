"""``lab compare``: runs side by side, as a page, a picture and a table."""
