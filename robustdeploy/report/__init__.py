"""Say and judge: a report rendered for people and for CI, and the verdict its rows and rules lead to."""
