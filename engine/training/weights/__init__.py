"""The weights of a network: where they come from, which of them stand still, their moving average."""
