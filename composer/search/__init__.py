"""Searching for a network: a space of parameters and parts, a budget, and the front of Dice against cost.

    space -> composition -> check -> cost model -> training -> study -> front

A composition is nothing new: `key=value` overrides, as on a command line, and a recipe. So `check` says what is wrong
with one before a tensor exists, the cost model what it takes before it is allocated, and what remains is trained.
"""
