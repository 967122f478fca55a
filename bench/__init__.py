"""What a node costs, beside Apache Kafka and Mosquitto in the same minutes. See README.md."""
