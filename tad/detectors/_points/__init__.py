"""Modules shared by ActionFormer, TriDet and MSE, which regress segments from the points of a feature pyramid."""
