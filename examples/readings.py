"""The hourly temperatures of two cities in 2010, in degrees Fahrenheit, from `vega_datasets`."""

import csv
import io
from decimal import Decimal

from vega_datasets import data

CITIES = {"seattle": data.seattle_temps, "san-francisco": data.sf_temps}
# The readings of a city are shared out among this many sensors.
SENSORS = 4


def readings():
    """(city, sensor, time, degrees) of every reading. Decimals, so that sums are exact."""
    for city, source in CITIES.items():
        rows = csv.DictReader(io.StringIO(source.raw().decode()))
        for number, row in enumerate(rows):
            yield city, number % SENSORS, row["date"], Decimal(row["temp"])
