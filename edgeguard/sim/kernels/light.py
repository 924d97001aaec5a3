"""Places in the vector of numbers by which the shading kernel is told what shines and what dims.

Brightnesses are shares of full daylight. HAZE is the distance in metres at which contrast falls to 1/e, AIR_* the
colour that far things fade to; FOG how quickly the sky clears with elevation (0: no fog); MAP_* the place of the
first cell of the map of lights and the size of a cell, metres.
"""

AMBIENT, SUN, HAZE, AIR_R, AIR_G, AIR_B, WET, HEADLIGHT = range(8)
EMIT, OVERCAST, SKY, SUN_DISC, FOG, MAP_X, MAP_Y, MAP_CELL = range(8, 16)
PLACES = 16
