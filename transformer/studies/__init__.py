"""Studies: arms that differ in a setting, runs over seeds, and what follows from them."""
