"""What a network gets right when its images are changed by little, on purpose: a measurement, no defence.

ball.py says what may be changed, attacks.py finds changes by gradients, square.py by answers alone, amplification.py
follows a change through the layers, session.py is what attack.py does.
"""
