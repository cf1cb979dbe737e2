"""What building the documentation takes beside MkDocs; the pages themselves are in docs/."""
