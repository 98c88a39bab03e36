"""A data set looked at before training on it: its layout, what every case holds, and what is wrong with it."""
