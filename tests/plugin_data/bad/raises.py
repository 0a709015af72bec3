"""Cannot be imported."""

raise RuntimeError("the licence server of raises does not answer")
