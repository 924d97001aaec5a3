"""Sequential statistics, attribution, sensor trust and the fused product."""
