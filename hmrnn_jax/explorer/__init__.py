"""A run and what it read as one page of HTML, which needs neither a server nor the network."""
