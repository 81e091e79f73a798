"""One module per engine, behind one small protocol."""
