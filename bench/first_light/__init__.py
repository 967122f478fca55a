"""`make bench`: a whole node beside Apache Kafka and Mosquitto in the same minutes."""
