"""The annotation table, its checks, and the random selection of videos that keep their labels."""
