"""Use from Python and notebooks: `tad.load`, `tad.evaluate` and `tad.nms`.

Each imports what it needs when it is called; `import tad` alone imports nothing.
"""
