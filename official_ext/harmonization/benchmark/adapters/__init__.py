"""Networks of any origin behind one interface."""
