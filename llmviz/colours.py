"""The colours of all figures and views, once."""

# Okabe and Ito's colours, which colour-blind readers tell apart, on quiet greys.
BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
INK, MUTED, FAINT = "#222222", "#6b7280", "#d1d5db"
SERIES = [BLUE, ORANGE, GREEN, RED, "#cc79a7", "#56b4e9"]
