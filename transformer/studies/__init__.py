"""Studies: arms that differ in settings, runs with several seeds, and the verdicts and reports computed from them."""
