from hardware.profile import tree_graphs as tree_graphs  # registers how trees are lowered
