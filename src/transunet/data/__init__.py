"""Files become cases, cases become volumes, volumes become training samples."""
