"""Studies: arms that differ in a setting, runs over seeds, and what they allow to be said."""
