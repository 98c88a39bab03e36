"""Memory of classifying a long video."""
